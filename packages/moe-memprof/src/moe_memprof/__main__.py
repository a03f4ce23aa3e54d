"""`python -m moe_memprof` is the `moe-memprof` command."""

from moe_memprof.cli import main

if __name__ == "__main__":
    main()
