"""Small benchmarks of the insides, comparable between commits: `make microbench`. Tests check, these only measure."""
