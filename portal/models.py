from portal.audit import AuditEvent

__all__ = ["AuditEvent"]
