"""Has this folder's shared networks (``functional_nets``) importable from its sub-folders: pytest puts it on the path."""
