"""Databases, Arrow-native over ADBC: where one lies, how to connect to it, how its SQL differs, and what its errors mean."""
