"""The parts that users reach: the Cloud Function and the web page, and the model bundle that they share."""
