"""report.html: the whole report in one file that opens without a server, a network, or any other file."""
