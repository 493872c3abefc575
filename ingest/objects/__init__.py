"""Named pieces of bytes, whole and durable: in a folder, or in a bucket of a cloud.

- `object_store`: how one is opened; `protocols`: what every store promises.
- `object_names`: names that every store takes.
- `store_trial`: what is tried at start, so that wrong settings show there.
- `folder_objects`: files of a folder; `cloud_objects`: S3, Google Cloud Storage, Azure.
"""
