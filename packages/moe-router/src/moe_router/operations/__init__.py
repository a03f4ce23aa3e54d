"""Which operation of reasoning a step carries out: setup, plan, recall, calculate, transform, deduce, compare, cases, check or conclude."""
