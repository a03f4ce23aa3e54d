"""`python -m moe_train` is the `moe-train` command."""

from moe_train.cli import main

if __name__ == "__main__":
    main()
