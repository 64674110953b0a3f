"""Has this folder's shared archives and servers importable from its sub-folders: pytest puts it on the path."""
