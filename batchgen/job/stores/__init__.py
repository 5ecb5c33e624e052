"""Where inputs and outputs lie, on a disk or in an object store, and files that appear whole there.

Imports none of batchgen but its errors; obstore, boto3 and huggingface_hub where they are used.
Read `places.py` first, then `remote_path.py` and `files.py`.
"""
