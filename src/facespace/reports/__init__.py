"""Report pages: the Jinja2 templates in `templates/`, their one style, and plots.

Everything is in `page`. To add a report, write a template that extends `page.html` and render it with the figures:
see `evaluation.report`, `curation.report`, `identification.classifier_report` and `clustering.folders`.
"""
