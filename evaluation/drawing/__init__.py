"""Pictures, diagrams and pages that studies and reports are made of."""
