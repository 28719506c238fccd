"""What several tests share: small models, graphs, galleries, films, and slow references."""
