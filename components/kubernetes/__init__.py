"""The cluster's API: client, owner, labels, leases and the reaper.

cluster_client                  the API: objects in and out, retries, errors
cluster_lease                   renew the Lease object that owns a server
reaper                          delete what runs left whose lease has ended
questions, rights               what may this account do, and what does the cluster have
"""
