"""One reader for each format of datasets, with its writer: class folders, RecordIO, TFRecord, WebDataset, Parquet, MS-Celeb.

Begin with `class_folders`, the simplest. Each reader satisfies `datasets.protocol.LabelledImages`.
"""
