"""`python -m moe_bench` is the `moe-bench` command."""

from moe_bench.cli import main

if __name__ == "__main__":
    main()
