module sandlot

go 1.26
