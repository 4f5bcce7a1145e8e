"""`python -m convmodel`, also for `torchrun -m convmodel`."""

from convmodel.cli.main import main

main()
