"""``python -m glomedge``."""

from glomedge.cli import main

if __name__ == "__main__":
    main()
