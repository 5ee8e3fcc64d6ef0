module dropoffd.test/tusd1

go 1.24

require github.com/tus/tusd v1.13.0
