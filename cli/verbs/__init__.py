"""The verbs of `./stack`: each module has `add(parser)` for its flags and `run(stack, flags)`."""
