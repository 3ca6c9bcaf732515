"""The compute providers that come with Landlord; found by entry point, imported by nobody else."""
