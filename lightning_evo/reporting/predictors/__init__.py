"""How well do predictors learn from what searches found? A report as a table, as JSON and as a plot."""
