"""``python -m workers``: the command ``uniroute`` where the script is not on the path."""

from workers.cli.main import main

main()
