"""Small building blocks that rooms share and that belong to none of them."""
