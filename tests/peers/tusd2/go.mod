module dropoffd.test/tusd2

go 1.24

require github.com/tus/tusd/v2 v2.10.0
