"""What runs batchgen on a cluster that is there already: Ray.

Imports the job half and the Python API, and ray (the extra `[ray]`) inside functions alone.
Read `ray_shards.py` first: a shard is a task, and an ordinary run.
"""
