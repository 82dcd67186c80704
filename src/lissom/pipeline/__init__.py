"""The flow: capture, plan, apply, recover, measure, report; from Python and from a recipe."""
