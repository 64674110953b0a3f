"""``python -m lightning_evo``: the command line, where its script isn't on the path."""

from lightning_evo.cli.main import main

if __name__ == "__main__":
    main()
