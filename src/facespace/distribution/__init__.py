"""Distributed work over millions of photos: this process or the workers of a Ray cluster compute it in parts.

Begin with `parts.compute_parts`, which computes the parts of a plan that are still missing. `plan` splits photos into
numbered parts, `storage` reads and writes local folders and stores like S3, `session` connects to Ray, and `archives`
stores the results of parts. `embedding`, `aligning`, `evaluating`, `clustering` and `converting` are the work itself. To
distribute another command, write its work like `embedding`.
"""
