module dropoffd.test/null_s3_server

go 1.22
