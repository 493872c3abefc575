"""Named pieces of bytes, whole and durable: in a folder, or in a bucket of a cloud.

- `object_store`: what every store promises, and how one is opened.
- `object_names`: names that every store takes.
- `store_trial`: what is tried at start, so that wrong settings show there.
- `folder_objects`: files of a folder; `cloud_objects`: S3, Google Cloud Storage, Azure.
"""
