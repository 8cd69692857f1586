"""Stage two: open-vocabulary mask classification. Modules here never import another stage."""
