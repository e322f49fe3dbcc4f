"""Migrations of the database, applied by ``uniroute db upgrade``.

A file is named ``NNNN_expand_...`` where the previous version of uniroute keeps working on the new tables,
and ``NNNN_contract_...`` where only the current one does. Every migration is one transaction and can be taken
back.
"""
