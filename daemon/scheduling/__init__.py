"""What runs next: fair between studies, small beside large, within memory and each one's rate."""
