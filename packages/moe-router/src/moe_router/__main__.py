"""`python -m moe_router` is the `moe-router` command."""

from moe_router.cli import main

if __name__ == "__main__":
    main()
