module dropoffd.test/null_s3

go 1.22
