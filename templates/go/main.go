// A small service to try rei with: it greets.
//
// It serves on the socket that it inherits (LISTEN_FDS, as under systemd). Without one it serves on a port: greeter 8080
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// Descriptors 0, 1 and 2 are input, output and errors.
const firstInherited = 3

// Requests in progress get this long to finish: less than rei's stop_timeout.
const grace = 5 * time.Second

func routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, "ok")
	})
	mux.HandleFunc("GET /greet/{name}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, http.StatusOK, "Hello, "+r.PathValue("name")+"!")
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusNotFound, "There is no such page.")
	})
	return mux
}

func answer(w http.ResponseWriter, status int, text string) {
	w.Header().Set("content-type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	fmt.Fprintln(w, text)
}

// Returns the socket from the supervisor, or a new one.
func listen() (net.Listener, error) {
	if os.Getenv("LISTEN_PID") == strconv.Itoa(os.Getpid()) && os.Getenv("LISTEN_FDS") == "1" {
		return net.FileListener(os.NewFile(firstInherited, "http"))
	}
	port := "8080"
	if len(os.Args) > 1 {
		port = os.Args[1]
	}
	return net.Listen("tcp", "127.0.0.1:"+port)
}

func main() {
	listener, err := listen()
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	server := &http.Server{Handler: routes(), ReadHeaderTimeout: grace}
	ended := make(chan error, 1)
	go func() {
		<-ctx.Done()
		late, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		ended <- server.Shutdown(late)
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
	if err := <-ended; err != nil {
		log.Fatal(err)
	}
}
