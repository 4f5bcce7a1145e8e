"""`python -m convmodel`, which is also what `torchrun -m convmodel` starts."""

from convmodel.cli.main import main

main()
