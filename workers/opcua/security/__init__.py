"""What has to be proved before a session is used: ours to the server, the server's to us (OPC 10000-4, 6.1).

policies      what a connection asks for, and OPC UA's security policies
endpoints     which of a server's endpoints is used
certificates  X.509 as OPC UA uses it; pki: the folders that it is kept in
trust         whether a server's certificate is trusted; admission: where that meets the folders
tokens        who the user is
handshake     CreateSession and ActivateSession, with everything that they have to prove
"""
