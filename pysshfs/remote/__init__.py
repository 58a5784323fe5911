"""The server's side: connection, authentication, SFTP. The only importer of asyncssh."""
