"""Private names of other libraries, one module per library: an upgrade that removes one fails here and nowhere else.

No other module names an underscored attribute, class or module of these libraries. Each entry says what breaks without it,
and ``tests/compat`` checks that it exists and behaves as it is used.
"""
