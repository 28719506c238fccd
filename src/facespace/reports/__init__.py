"""The pieces that report pages are made of: one style, safe text, tables, plots.

Everything is in `page`. Each room writes its own report with these pieces: `evaluation.report`, `curation.report`,
`identification.classifier_report`, `clustering.folders`.
"""
