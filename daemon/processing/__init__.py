"""The way of an upload from received to done: plan, deliver, report, clean up."""
