"""``python -m landlord``: the command line where no script is installed."""

from landlord.cli.main import main

main(prog_name="landlord")
