module medllama/go_template

go 1.19
