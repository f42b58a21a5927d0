// Command sealwright is the command line of Sealwright: sealwright NOUN VERB.
package main

import "os"

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
