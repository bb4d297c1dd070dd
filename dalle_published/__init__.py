"""Other people's published weights, read without executing any code in them."""
