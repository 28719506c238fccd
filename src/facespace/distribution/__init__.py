"""One command over millions of photos: parts of the work computed by this process or by the workers of a Ray cluster.

Begin with `parts.compute_parts`, which runs the parts of a plan that are still missing. `plan` cuts photos into numbered parts,
`storage` reads and writes local folders and stores like S3, `session` connects to Ray, `archives` hold the
results of parts, and `embedding`, `aligning`, `evaluating`, `clustering` and `converting` are the work itself. To distribute one more command, write its work as `embedding` does.
"""
