"""Stores in a folder or in S3, behind one interface; values in one file.

store, s3                       the interface with the store in a folder; the store in S3, with the upload
bucket_lease                    what one process at a time may do, on whatever machine
location                        the store or file at an address
hashing                         the sha256 of files
cache                           where downloads lie
artifact, yaml_file             one value in one file, for programs and for people
page_templates                  the Jinja templates of a folder of components
s3_file                         one object of S3 on this machine
s3_advice                       what to do about an error of S3's
"""
