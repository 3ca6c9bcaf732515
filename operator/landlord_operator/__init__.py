"""The Kubernetes door: watches ``Tenant`` resources, keeps them and the records in agreement, and reconciles."""
