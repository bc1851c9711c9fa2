"""Training, in rooms.

`build` makes the parts of a run from its config, and `loop` runs them: the data pipeline yields a batch of
uint8, `layout` lays it on the devices, `step` normalises it, applies the model, sums the `losses` and updates
the `state` by the `optimizer`, and `loop` logs, saves and evaluates. `workdir` and `log` hold what a run
writes, `pictures` what it draws, and `interruption` what stops it.
"""
