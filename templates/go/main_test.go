package main

import (
	"net/http/httptest"
	"testing"
)

func TestAnswers(t *testing.T) {
	for _, want := range []struct {
		path   string
		status int
		body   string
	}{
		{"/healthz", 200, "ok\n"},
		{"/greet/Ada", 200, "Hello, Ada!\n"},
		{"/nowhere", 404, "There is no such page.\n"},
	} {
		answer := httptest.NewRecorder()
		routes().ServeHTTP(answer, httptest.NewRequest("GET", want.path, nil))
		if answer.Code != want.status || answer.Body.String() != want.body {
			t.Errorf("%s: %d %q", want.path, answer.Code, answer.Body.String())
		}
	}
}
