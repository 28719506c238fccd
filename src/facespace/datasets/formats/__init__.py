"""A reader for each dataset format, and writers: class folders, RecordIO, TFRecord, WebDataset, Parquet, MS-Celeb.

Begin with `class_folders`, the simplest. Each reader satisfies `datasets.protocol.LabelledImages`.
"""
